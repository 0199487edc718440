"""VQ-KD, the tokenizer of BEiT v2: a ViT whose codes were trained to predict CLIP's features. It draws no pictures."""
