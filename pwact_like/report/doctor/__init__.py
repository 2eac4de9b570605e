"""What this machine can and cannot do: facts go in, findings come out; nothing here prints, and nothing is left behind."""
