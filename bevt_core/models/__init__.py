"""The networks: encoders, stems, decoders, BEVT and the classifier.

Not here: checkpoints (weights), losses of training.
"""
