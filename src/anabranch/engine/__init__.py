"""The engine's rooms: one driver, the pure tracker that decides, and what stands around them."""
