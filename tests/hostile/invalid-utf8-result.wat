;; Answers with bytes that are no text.
(module
  ;; @answers
  ;; @heap
  (data (i32.const 2048) "\c3\28\ff\fe")
  (func (export "sandpost:plugin/handler@0.1.0#handle") (param $message i32) (result i32)
    (call $reject (i32.const 2048) (i32.const 4))))
