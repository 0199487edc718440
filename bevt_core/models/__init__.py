"""The networks: encoders, stems, decoders, BEVT and the classifier.

Not here: checkpoints (weights), fine-tuning losses (trainer).
"""
