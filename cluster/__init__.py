"""What turns a configuration into a running pool: the command line, and files for Ray clusters."""
