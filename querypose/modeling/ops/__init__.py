"""RoI pooling, memory layout and compilation."""
