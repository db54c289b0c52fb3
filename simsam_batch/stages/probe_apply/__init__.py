"""``simsam probe apply``: label maps of new images, by one probe that ``simsam probe`` has fitted."""
