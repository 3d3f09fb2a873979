"""The tests of the stack: unit, integration and end to end."""
