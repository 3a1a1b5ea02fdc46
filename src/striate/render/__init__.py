"""What people look at: text in columns (rich), pages (jinja2) and drawings in them (SVG).

Each file imports its library when something is drawn, not when striate is imported.
"""
