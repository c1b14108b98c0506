"""What can be measured, one kind a file."""
