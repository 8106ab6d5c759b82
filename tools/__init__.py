"""What maintainers run: python tools/run_lessons.py, bench.py and others."""
