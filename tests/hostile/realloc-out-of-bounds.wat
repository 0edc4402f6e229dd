;; Says that there is room for the message where it has no memory.
(module
  ;; @answers
  (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32) (i32.const -65536))
  (func (export "sandpost:plugin/handler@0.1.0#handle") (param $message i32) (result i32) (call $ack)))
