"""The GPU check: see main.py for what it does, programs/ for what it runs."""
