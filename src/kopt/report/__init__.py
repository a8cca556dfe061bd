"""What a compilation measured, for people and for programs."""
