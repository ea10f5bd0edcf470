"""From records to what people see: selections, tables, words, figures. No torch."""
