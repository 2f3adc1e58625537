"""One file per sub-command. Imports beyond the command line's own happen inside the commands."""
