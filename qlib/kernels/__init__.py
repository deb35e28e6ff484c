"""Integer kernels: what they answer, and how long they take."""
