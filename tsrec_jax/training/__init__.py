"""Training: the combined loss, the jitted step, the loop around it and its checkpoints."""
