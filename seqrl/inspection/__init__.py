"""Episodes and conversations step by step, and what a memory's answer rests on."""
