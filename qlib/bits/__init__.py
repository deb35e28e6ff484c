"""Bits by layer: learned (`learn`, from `data`, by a `student` with two `sides`, as `settings` say), analytic
(`analytic`), and the labels of the network itself to learn from (`labels`).

Nothing is imported here: experiments need the settings, and no torch.
"""
