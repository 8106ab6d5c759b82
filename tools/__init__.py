"""What maintainers run: python tools/run_lessons.py, build_site.py, bench.py and others."""
