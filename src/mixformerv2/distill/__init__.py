"""Ways from a large network to a small one: what a teacher says, fewer blocks, narrower MLPs, replaced blocks."""
