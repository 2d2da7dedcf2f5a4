"""What address spaces and plans are written as, and read from."""
