"""How fast a tracker is here, stage by stage, against the released code, its peers and the machine's limits."""
