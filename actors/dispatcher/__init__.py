"""The dispatcher: a Ray actor round `actors.scheduling`."""
