"""The network in torch: attention, backbone, heads, the network that joins them, and its checkpoints."""
