;; Exports nothing.
(module
  ;; @answers
  ;; @heap
)
