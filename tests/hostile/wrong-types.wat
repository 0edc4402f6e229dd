;; Exports a handler of the right name that takes and gives something else.
(module
  ;; @answers
  ;; @heap
  (func (export "sandpost:plugin/handler@0.1.0#handle") (param i32) (result i32) (local.get 0)))
