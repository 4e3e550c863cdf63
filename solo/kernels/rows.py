"""The row of numbers that says what the kernels of ``views.py`` do to a view."""

TOP, LEFT, HEIGHT, WIDTH, FLIP = range(5)

SLOTS = 5
"""Changes of colour in a row, one after the other."""

CHANGES, FACTORS = 5, 5 + SLOTS
CONTRAST_SLOT, SIGMA, SOLARIZE, EQUALIZE, NUMBERS = range(5 + 2 * SLOTS, 10 + 2 * SLOTS)

BRIGHTNESS, CONTRAST, SATURATION, HUE, GRAY = range(5)
NOTHING = -1
