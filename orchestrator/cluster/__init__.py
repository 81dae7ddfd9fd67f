"""Ray for the kernel: a local or joined cluster, and jobs. The only package of the kernel that imports Ray."""
