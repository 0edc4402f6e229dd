;; Does one thing with the host and acknowledges: the other topic, and what broken files are made of.
(module
  (import "sandpost:plugin/cache@0.1.0" "set"
    (func $set (param i32 i32 i32 i32 i32 i64 i32 i32)))
  ;; @answers
  ;; @heap
  (data (i32.const 2048) "last")
  (func (export "sandpost:plugin/handler@0.1.0#handle") (param $message i32) (result i32)
    (call $set (i32.const 2048) (i32.const 4) (i32.const 2048) (i32.const 4)
      (i32.const 0) (i64.const 0) (i32.const 0) (i32.const 4096))
    (call $ack)))
