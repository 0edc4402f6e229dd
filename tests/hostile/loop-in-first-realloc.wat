;; Loops where the host puts the message itself into its memory, before the handler begins.
(module
  ;; @answers
  (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32)
    (loop $again (br $again)) unreachable)
  (func (export "sandpost:plugin/handler@0.1.0#handle") (param $message i32) (result i32) (call $ack)))
