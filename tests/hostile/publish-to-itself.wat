;; Publishes two messages to the topic that it handles for each one that it is given.
(module
  (import "sandpost:plugin/pubsub@0.1.0" "publish" (func $publish (param i32 i32)))
  ;; @answers
  ;; @heap
  (data (i32.const 2048) "publish-to-itself")
  (func (export "sandpost:plugin/handler@0.1.0#handle") (param $message i32) (result i32)
    (i32.store (i32.const 8192) (i32.const 2048)) (i32.store (i32.const 8196) (i32.const 17))
    (call $publish (i32.const 8192) (i32.const 4096))
    (call $publish (i32.const 8192) (i32.const 4096))
    (call $ack)))
