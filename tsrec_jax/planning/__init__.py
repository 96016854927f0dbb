"""What a training will take: memory, FLOPs and time, by arithmetic alone."""
