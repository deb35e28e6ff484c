"""What the files of a checkpoint say of its quantization: a file a format, each from plain data to plain
fields of a card. No weights are read, nothing that lies in a checkpoint is run.
"""
