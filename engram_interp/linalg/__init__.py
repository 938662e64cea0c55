"""What are the formulas? The paper's mathematics as functions of plain tensors, which know no model."""
