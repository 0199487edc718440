"""Augmentation of training clips: crops and flips, RandAugment and erasing, Mixup and CutMix."""
