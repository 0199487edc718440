"""The documentation's site: what `mkdocs.yml` adds to the pages in docs/."""
