"""What is done for the machine's sake, so that no other room knows of it."""
