"""Does higher resolution give better Dice, and does the whole image beat patches? See `docs/resolution_study.md`."""
