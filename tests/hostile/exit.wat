;; Ends the program, as it thinks.
(module
  (import "wasi:cli/exit@0.2.0" "exit" (func $exit (param i32)))
  ;; @answers
  ;; @heap
  (func (export "sandpost:plugin/handler@0.1.0#handle") (param $message i32) (result i32)
    (call $exit (i32.const 0)) unreachable))
