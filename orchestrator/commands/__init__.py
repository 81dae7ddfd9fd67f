"""The commands of `illume`: each module parses options, calls the kernel and the stages, and prints."""
