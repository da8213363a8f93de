"""The command line: parse, run, render."""
