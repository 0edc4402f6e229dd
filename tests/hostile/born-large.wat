;; Asks for more memory in its first breath than it may ever have.
(module
  (memory (export "memory") 4000)
  ;; @heap
  (func (export "sandpost:plugin/handler@0.1.0#handle") (param $message i32) (result i32) unreachable))
