"""The networks: encoders, stems, decoders, BEVT and the classifier.

Not here: weights on disk (bevt_core/weights), fine-tuning losses (trainer).
"""
