;; Imports `a package that nobody knows`, which nobody granted.
(module
  (import "acme:secrets/vault@1.0.0" "open" (func $it ))
  ;; @answers
  ;; @heap
  (func (export "sandpost:plugin/handler@0.1.0#handle") (param $message i32) (result i32)
    (call $it)
    (call $ack)))
