"""Ray from the kernel: a local or joined cluster, and jobs. The only place of the kernel that names Ray."""
