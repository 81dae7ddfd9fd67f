"""The commands of `illume`: each file reads options, calls the kernel and the stages, and prints."""
