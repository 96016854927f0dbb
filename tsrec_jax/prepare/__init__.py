"""Raw reviews or plain tables to a folder of texts and interactions."""
