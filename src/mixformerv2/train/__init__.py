"""Training: losses, what a step does, the loop around it, and the recipes."""
