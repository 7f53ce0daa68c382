"""One module a group of commands: parse, call, print. Heavy imports happen inside the commands."""
