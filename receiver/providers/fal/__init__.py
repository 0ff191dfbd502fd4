"""fal.ai: Ed25519 proves its deliveries, and the files of a payload of any model are its outputs."""
