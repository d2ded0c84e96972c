"""What people would pick instead, tuned as its documents say, doing the same work; what it wrote is checked."""
