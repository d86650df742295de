"""Example data: a real log of university courses, and a simulated shop with planted effects."""
